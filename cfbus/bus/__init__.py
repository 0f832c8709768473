"""How peers talk: messages, frames, keys, admission, sockets."""
