"""Who may do what: keys, scopes, limits of a tenant, and a log of what was changed."""
