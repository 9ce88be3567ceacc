"""What a researcher sees of a simulation while it runs, and keeps of it: sinks that are told each round that ended.

    rounds ──> RunLog ──> Bars               live on a terminal (stderr)
                    ├───> RoundsCsv          DIR/rounds.csv, one line per round, there as soon as the round is over
                    ├───> EventFiles         DIR/tensorboard/TASK/, scalars for `tensorboard --logdir DIR/tensorboard`
                    └───> Plot               DIR/rounds.png, drawn when the run ends, however it ends

What is written from DIR on needs the extra `sim`; nothing of it is imported before it is asked for.
"""

from edgefl.runlog.sink import RunLog, Sink, open_run_log

__all__ = ["RunLog", "Sink", "open_run_log"]
