"""Made-up trainings and what may happen to them, behind `lldwatch.simulate`. Simulations: no model learns here."""
