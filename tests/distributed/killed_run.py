"""The command line, for ``torchrun``. ``KILLED=RANK:STEP`` says which process is killed, and after which step."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from layerselect.cli.main import main
from layerselect.tasks.run.log import RunLog

if __name__ == "__main__":
    real = RunLog.on_step_end

    def end(self: RunLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        real(self, args, state, control, **kwargs)
        if os.environ.get("KILLED") == f"{os.environ['RANK']}:{state.global_step}":
            os.kill(os.getpid(), signal.SIGKILL)

    RunLog.on_step_end = end  # type: ignore[method-assign]
    sys.exit(main())
