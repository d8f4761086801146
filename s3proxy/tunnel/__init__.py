"""Connections that are passed on unread: TLS by the name in its first message, and what CONNECT asks for."""
