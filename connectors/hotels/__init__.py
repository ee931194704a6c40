"""The outbound side of hotel software: what is asked of Mews, Apaleo and Oracle OHIP, and of nobody else."""
