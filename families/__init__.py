"""Which families of models the commands work with: tiny models of all that the installed ``transformers`` has, tried
one by one.
"""
