"""What a user names: task files, initial weights, data sets and how they become clients."""
