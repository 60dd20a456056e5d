"""Places where people train: one module per framework, imported only where it is used."""
