"""Math reasoning: train on MetaMathQA, test on GSM8K, forgetting on general text."""
