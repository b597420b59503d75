package noise

// Accept is the server's part of a handshake.
func Accept(k *Key, init []byte) error {
	_, _, err := k.accept(init)
	return err
}
