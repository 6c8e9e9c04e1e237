"""Sources of weak labels: annotators, keyword rules, models, simulated noise; and the model that combines votes."""
