"""What it cost: prices, journal, and the mover that takes it into the ledger."""
