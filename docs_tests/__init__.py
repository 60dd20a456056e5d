"""The code of README.md and of the guides runs: `make docs-test`. No part of `make test`."""
