"""Pretrained models: loading them, their adapters, their vocabulary, and what was saved of them."""

import logging

# peft imports bitsandbytes where that is installed, which then warns about a kernel that it does without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
