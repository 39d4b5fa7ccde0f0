"""The words and the wire: events, topics, CloudEvent bindings, stages and their hosts. Knows no model and no tensor."""
