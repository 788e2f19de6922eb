"""Customized text-to-image models, one file each."""
