"""Lead intelligence: leads scored from their records and activities, every factor shown, changes only proposed."""
