"""What is known of a layer's score. Shared by rules, scores and both backends (``LayerStatus`` in ``csrc/select.h``).

One value never means two things: "never measured" asks for a measurement, "not finite" asks to be left out.
"""

EXCLUDED = 0  #: its gradient was not finite in this step; it may not be selected
MEASURED = 1  #: its score is a finite number, from this step or held from an earlier one
NEVER_MEASURED = 2  #: it ranks above every measured layer, so that it gets measured
