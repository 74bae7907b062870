package load

import (
	"math/rand/v2"
	"time"
)

// Sessions says what a conversation is. The zero value is one call.
type Sessions struct {
	Turns   int                   // calls of a conversation; 0: 1
	TurnsOf func(session int) int // of each conversation, instead of Turns; below 1 counts as 1
	// Think is how long the user of a conversation reads and types between an answer and the next turn. nil: no time. It holds the
	// lane: a user is one user. The next turn is due when it is over.
	Think func(*rand.Rand) time.Duration
}

func (s Sessions) turns(session int) int {
	if s.TurnsOf != nil {
		return max(s.TurnsOf(session), 1)
	}
	return max(s.Turns, 1)
}

// Turn is one call of a conversation, as its operation sees it.
type Turn[T any] struct {
	Index   int // of the call, as in Result.Calls
	Session int // number of the conversation; negative: a warm-up, which is one turn
	Turn    int // 0: the first
	// Due and Queue are those of the call's record, for operations that log a call as it ends.
	Due   time.Time
	Queue time.Duration
	// History is what the earlier turns returned, oldest first: the next request is made from it. Read it, keep no reference.
	History []T
}
