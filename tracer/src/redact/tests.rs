//! Records of every kind and messages of every shape through the redactor.
