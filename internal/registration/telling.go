package registration

import "github.com/kitsd/etcdv3/internal/meter"

// tell passes on why the key is not registered, nil when it is, if that is news.
func (r *registration) tell(err error) {
	if !r.known || !same(err, r.told) {
		r.pass(err)
	}
}

// pass passes on why the key is not registered, nil when it is.
func (r *registration) pass(err error) {
	r.count(err)
	r.known, r.told = true, err
	if r.observe.Hear != nil {
		r.observe.Hear(err, r.leases.id.Load())
	}
}

// count keeps the metrics of what is told.
func (r *registration) count(err error) {
	if err == ErrInDoubt {
		return // the reason follows
	}
	m, is := r.book.conn.Metrics, err == nil
	switch was := r.book.counted(r, is); {
	case !was && is:
		meter.Add(m.ServicesRegistered, 1)
		if r.missing {
			meter.Count(m.Returns, 1, "reason", Reason(r.told))
		}
		r.missing = false
	case was && !is:
		meter.Add(m.ServicesRegistered, -1)
		if !Ended(err) {
			meter.Count(m.Losses, 1, "reason", Reason(err))
			r.missing = true
		}
	}
	if Ended(err) {
		r.missing = false // what comes back is another's
	}
}

func same(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}
