package dedupe

// Waiting returns how many questions wait to be asked together.
func (s *SeenSet) Waiting() int {
	s.together.mu.Lock()
	defer s.together.mu.Unlock()
	return len(s.together.waiting)
}

// CheckVersion judges a version of Redis.
var CheckVersion = checkVersion
