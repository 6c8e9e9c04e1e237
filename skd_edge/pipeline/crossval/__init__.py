"""``skd-edge crossval``: a run for each fold, and the pooled figures of all folds."""
