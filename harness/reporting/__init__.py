"""What people look at: the terminal, tables for papers, the HTML page, MLflow.

May import results and what lies below it, never planning's or execution's inner parts. Start with
``report``; ``tables`` holds what all formats share. Below it ``page`` (HTML), ``live`` (a run as it
goes on), ``mlflow`` (a tracking server).
"""
