"""A Supabase when there is none: PostgreSQL and a PostgREST-compatible API on this machine, without Docker."""
