"""Small models that ship with the project, and the program that trained them."""
