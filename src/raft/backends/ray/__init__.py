"""Work that is spread over the processes of a Ray cluster; what is decided, granted and written stays here."""
