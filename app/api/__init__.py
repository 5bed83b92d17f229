"""HTTP only: routes, schemas, errors, limits, health. Asks `app.documents`; touches no tensor and no token."""
