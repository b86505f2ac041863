"""The attested exchange: messages, typed states, transcript, HPKE."""
