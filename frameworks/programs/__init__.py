"""The programs: each is what a user would write. Their ``main(*arguments, mode)`` is run by
:mod:`frameworks.watched`.
"""
