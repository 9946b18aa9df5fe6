//! Where the real servers and stock tools are; a missing one fails the test and says what installs it.
