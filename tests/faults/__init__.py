"""What tests of ``edgefl.cli.faults`` bring: a fleet that adds integers, defects put in on purpose, long runs."""
