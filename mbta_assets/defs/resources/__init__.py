"""What assets use and a deployment chooses: the warehouse that joins and reads, the tracker of experiments."""
