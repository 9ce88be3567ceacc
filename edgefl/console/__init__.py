"""What every command of EdgeFL's prints with, and how it finds what is installed."""
