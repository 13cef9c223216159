"""What each kind of artifact holds, how it is read and how it is made where it is absent."""
