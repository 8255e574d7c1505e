package etcdv3

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestVirtual_ThousandLeases_ShareOneStreamAndPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(time.Millisecond)}
		h := b.heartbeat(t)
		for i := range 1000 {
			h.keep(clientv3.LeaseID(i), 3*time.Second, 10*time.Second)
			time.Sleep(3 * time.Millisecond)
		}
		after(time.Minute)
		if n := len(b.opened()); n != 1 {
			t.Errorf("%d streams", n)
		}
		sent := b.beaten()
		moments := len(slices.CompactFunc(slices.Clone(sent), time.Time.Equal))
		if len(sent) < 20*1000 || len(sent) > 22*1000 || moments > 2*len(sent)/1000+2 {
			t.Errorf("%d beats, at %d moments", len(sent), moments)
		}
	})
}

func TestVirtual_AnswerSlowerThanTheHeartbeat_KeepsTheLeaseAndTheStream(t *testing.T) {
	for _, slow := range []time.Duration{900 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			b := &virtualBeats{delay: answersAfter(slow)}
			h := b.heartbeat(t)
			answers := h.keep(1, time.Second, 10*time.Second)
			for range 3600 {
				select {
				case beat := <-answers:
					if beat.lost || beat.silent {
						t.Fatalf("answers take %v: %+v, %d streams", slow, beat, len(b.opened()))
					}
				case <-time.After(time.Second):
				}
			}
			if n := len(b.opened()); n > 4 {
				t.Errorf("answers take %v: %d streams in an hour", slow, n)
			}
		})
	}
}

func TestVirtual_AnswersThatGetSlower_AreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(800 * time.Millisecond)}
		b.heartbeat(t).keep(1, 3*time.Second, 4*time.Second) // which alone is patience for 1.4 s
		after(30 * time.Second)
		for _, slower := range []time.Duration{1300 * time.Millisecond, 2500 * time.Millisecond} {
			b.change(func() { b.delay = answersAfter(slower) })
			after(time.Minute)
		}
		if n := len(b.opened()); n != 1 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestVirtual_SilentStream_IsGivenUpInTimeForTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for at := time.Duration(0); at < 3*time.Second; at += 250 * time.Millisecond {
			b := &virtualBeats{delay: answersAfter(time.Millisecond)}
			h := b.heartbeat(t)
			h.keep(1, 3*time.Second, 10*time.Second)
			after(time.Minute + at)
			silent := time.Now()
			b.change(func() { b.delay = isSilent })
			after(7*time.Second + 3*time.Second - at) // after the next beat, which is the first without an answer
			tries := slices.DeleteFunc(b.beaten(), func(at time.Time) bool { return !at.After(silent) })
			streams := len(b.opened())
			if streams < 3 || len(tries) < 3 || tries[2].Sub(silent) > 10*time.Second-at {
				t.Errorf("at %v: %d streams, beats at %v", at, streams, tries)
			}
			h.worker.stop()
		}
	})
}

func TestVirtual_SilentStream_ThreeTriesInSevenSecondsOfTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(time.Millisecond)}
		answers := b.heartbeat(t).keep(1, 3*time.Second, 10*time.Second)
		after(31 * time.Second)
		for len(answers) > 0 {
			<-answers
		}
		last := b.beaten()
		answered := last[len(last)-1]
		b.change(func() { b.delay = isSilent })
		after(7*time.Second - time.Since(answered))
		if tries := len(b.beaten()) - len(last); tries < 2 {
			t.Errorf("%d tries within 7 s of the last answer", tries)
		}
		after(time.Until(answered.Add(3*time.Second + 7*time.Second)))
		if tries := len(b.beaten()) - len(last); tries < 3 {
			t.Errorf("%d tries before the lease ends", tries)
		}
		// The next stream answers at once, and says so.
		b.change(func() { b.delay = answersAfter(time.Millisecond) })
		after(5 * time.Second)
		select {
		case beat := <-answers:
			if !beat.resumed || beat.lost {
				t.Errorf("%+v", beat)
			}
		default:
			t.Error("no answer within 5 s of etcd's return")
		}
	})
}

func TestVirtual_FirstPatienceDoubles_AndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(time.Millisecond), stuck: true}
		b.heartbeat(t).keep(1, 3*time.Second, 10*time.Second)
		after(5 * time.Minute)
		waits := every(b.opened())
		if waits[0] < firstPatience || waits[0] > firstPatience+3*backoffFirst {
			t.Errorf("%v before the second stream", waits[0])
		}
		if waits[1] < 2*firstPatience {
			t.Errorf("%v before the third stream", waits[1])
		}
		if most := slices.Max(waits); most > firstPatienceMax+backoffMax || most < firstPatienceMax {
			t.Errorf("%v between two streams", most)
		}
		b.change(func() { b.stuck = false })
		after(firstPatienceMax + backoffMax)
		if len(b.beaten()) == 0 {
			t.Fatal("no beat after etcd's return")
		}
		b.change(func() { b.delay = isSilent })
		n := len(b.opened())
		after(20 * time.Second)
		if wait := b.opened()[n+1].Sub(b.opened()[n]); wait < firstPatience || wait >= 2*firstPatience {
			t.Errorf("%v between the first streams after one that was well", wait)
		}
	})
}

func TestVirtual_StreamThatCannotBeOpened_IsTriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(0), failed: true}
		answers := b.heartbeat(t).keep(1, time.Second, 4*time.Second)
		after(time.Hour)
		if n := len(b.opened()); n < 1800 || n > 5000 {
			t.Errorf("%d attempts in an hour", n)
		}
		b.change(func() { b.failed, b.lost = false, true })
		after(backoffMax + time.Second)
		if beat := <-answers; !beat.lost {
			t.Error("the lease is lost, and its owner was not told")
		}
		n := len(b.beaten())
		after(time.Minute)
		if len(b.beaten()) != n {
			t.Error("a lease that is lost is renewed")
		}
	})
}

func TestVirtual_SendThatBlocks_IsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(0)}
		b.heartbeat(t).keep(1, 3*time.Second, 10*time.Second)
		after(10 * time.Second)
		n := len(b.opened())
		b.change(func() { b.stuck = true })
		after(3*time.Second + firstPatienceMax + 3*backoffFirst)
		if len(b.opened()) == n {
			t.Error("a stream that takes no more bytes is not given up")
		}
	})
}

func TestVirtual_LeasesOfDifferentHeartbeats_DroppedAndChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(0)}
		h := b.heartbeat(t)
		h.keep(1, time.Second, 4*time.Second)
		h.keep(2, time.Minute, time.Hour)
		after(30 * time.Second)
		h.alive(2, time.Second)
		h.alive(3, time.Second) // not known
		h.drop(1)
		h.drop(1)
		n := len(b.beaten())
		after(30 * time.Second)
		if beats := len(b.beaten()) - n; beats < 29 || beats > 32 {
			t.Errorf("%d beats in 30 s", beats)
		}
		h.answer(&pb.LeaseKeepAliveResponse{ID: 1, TTL: 4}) // late
		h.drop(2)
		n = len(b.beaten())
		after(time.Hour)
		if len(b.beaten()) != n {
			t.Error("beats without leases")
		}
	})
}

func TestVirtual_AnswersThatAreNoNews_AreNotPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: answersAfter(0)}
		h := b.heartbeat(t)
		answers := h.keep(1, time.Second, 10*time.Second)
		after(time.Minute)
		if len(answers) != 0 {
			t.Error("an answer was passed on that nobody waits for")
		}
		h.expect(1, true)
		after(1500 * time.Millisecond)
		if len(answers) != 1 {
			t.Error("an answer that is waited for was not passed on")
		}
	})
}

func TestVirtual_LeaseFoundAlive_TakesBackThatItWasSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &virtualBeats{delay: isSilent}
		h := b.heartbeat(t)
		answers := h.keep(1, time.Second, 10*time.Second)
		told := func(want string) {
			t.Helper()
			synctest.Wait()
			got := "nothing"
			select {
			case beat := <-answers:
				got = fmt.Sprintf("%+v", beat)
			default:
			}
			if got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		}
		after(9 * time.Second)
		told("nothing")
		after(2 * time.Second)
		told("{lost:false silent:true resumed:false}")
		after(time.Minute)
		told("nothing") // it was said once
		h.alive(1, time.Second)
		after(9 * time.Second)
		told("nothing")
		after(2 * time.Second)
		h.alive(1, time.Second) // before the owner looks
		told("nothing")
		h.mu.Lock()
		h.leases[1].resumed = true
		h.leases[1].answer(time.Now(), false)
		h.mu.Unlock()
		after(11 * time.Second)
		h.alive(1, time.Second)
		told("{lost:false silent:false resumed:true}")
		h.alive(1, time.Second)
		told("nothing")
	})
}
