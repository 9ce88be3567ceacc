"""What tests of ``edgefl.faults`` bring: a fleet that adds integers, defects put in on purpose, long runs."""
