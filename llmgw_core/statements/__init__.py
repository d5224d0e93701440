"""What every cost centre pays for a month: statements, and checks against invoices."""
