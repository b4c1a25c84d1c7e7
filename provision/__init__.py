"""Rehearse an event night on a staging Supabase: seed, burst, race, verdict, teardown."""

__version__ = "0.1.0"
