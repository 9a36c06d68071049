"""What crosses the link between agent and controller: messages, framing, the link itself."""
