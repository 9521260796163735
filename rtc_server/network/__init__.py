"""Datagrams: the UDP sockets of a process, and the ICE connections of its calls on top of them."""
