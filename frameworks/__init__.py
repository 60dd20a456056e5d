"""How the selector fares among other people's frameworks, optimizers, adapters and engines: ``make frameworks``.

* :mod:`frameworks.cases` lists what is tried: one row of the table each.
* ``frameworks/programs/`` holds the programs: what a user would write, with the selector in it and without any check.
* :mod:`frameworks.watched` runs one of them in a process of its own, while :mod:`frameworks.witness` watches it from
  outside.
* :mod:`frameworks.environments` makes the environments, :mod:`frameworks.runner` runs the cases,
  :mod:`frameworks.table` writes ``docs/frameworks.md``.
"""
