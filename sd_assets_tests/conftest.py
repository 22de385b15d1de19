"""What all tests share."""

from hypothesis import HealthCheck, settings

# A noisy machine must not fail a property: no deadlines, no complaints about slow generation.
settings.register_profile(
    "sd_assets", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("sd_assets")
