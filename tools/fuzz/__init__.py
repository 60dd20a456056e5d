"""Inputs that nobody meant, made by the thousand: see ``__main__`` for the command and for how a part is written."""
