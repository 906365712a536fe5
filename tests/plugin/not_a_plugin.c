// Stands in for a library of that name that is something else.
int something_else(void) { return 0; }
