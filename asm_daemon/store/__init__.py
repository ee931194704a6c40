"""All SQL that runs. A function here is one statement on a given connection; who calls it owns the transaction."""

import asyncpg

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
"""What a store function takes: a connection of its own, or one lent by a pool."""

LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server that ended an idle connection, noticed as we write to it
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What a database raises that is gone, going, full, or no longer takes writes: the connection is of no more use."""
