"""All SQL that runs. A function here is one statement on a given connection; who calls it owns the transaction."""

import asyncpg

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
"""What a store function takes: a connection of its own, or one lent by a pool."""
