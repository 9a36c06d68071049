"""The durable table: what is asked of a store, the pages kept in it, and the store on SQLite."""
