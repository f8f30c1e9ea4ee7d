"""First module of the fork server: importing it ties that process to its launcher. Imported nowhere else.

Processes inherit the fork server's end of the pipe by which it notices that the launcher is gone, so that a killed
launcher would leave all of them behind. And Ctrl-C or a signal to the whole group must reach the launcher alone:
it decides who saves and who dies.
"""

from __future__ import annotations

import os
import signal

from adts_trainer.launch.lifeline import die_with_parent

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
die_with_parent(os.getppid())
