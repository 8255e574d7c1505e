package fleet

import "time"

// SignEvery is how often a client asks the stream of its watches for a sign of
// life when nothing happens.
const SignEvery = 8 * time.Second

// signMessages is what a sign of life consists of where there are several
// members: a message on the stream, and a read.
const signMessages = 2

// Model is what etcd has to do for a fleet, in constants that were measured.
// Memory and processor time are those of all members together.
type Model struct {
	ClientServer, ClientClient             float64 // bytes for a connected client
	RegistrationServer, RegistrationClient float64 // bytes for a registration
	WatcherServer, WatcherClient           float64 // bytes for an Instancer
	RegisterRequests, RegisterCPU          float64 // to register: requests, seconds
	BeatSent, BeatReceived, BeatCPU        float64 // a heartbeat: bytes, seconds
	SignSent, SignReceived                 float64 // a sign of life: bytes
	EventSent, EventCPU                    float64 // an event of a watch: bytes, seconds
	FirstSet                               float64 // to list a service: bytes
}

// ModelOf takes the constants from what a fleet was measured to cost.
func ModelOf(r Result) Model {
	signs := signMessages * float64(r.Load.Instances) / SignEvery.Seconds()
	beatSent, beatReceived, beatCPU := r.Beats.Sent/r.Beats.Beats, r.Beats.Received/r.Beats.Beats, r.Beats.ServerCPU/r.Beats.Beats
	return Model{
		ClientServer: r.Connect.Server, ClientClient: r.Connect.Client,
		RegistrationServer: r.Register.Server, RegistrationClient: r.Register.Client,
		WatcherServer: r.Watch.Server, WatcherClient: r.Watch.Client,
		RegisterRequests: r.Register.Handled, RegisterCPU: r.Register.CPU,
		BeatSent: beatSent, BeatReceived: beatReceived, BeatCPU: beatCPU,
		SignSent:     (r.Idle.Sent - beatSent*r.Idle.Beats) / signs,
		SignReceived: (r.Idle.Received - beatReceived*r.Idle.Beats) / signs,
		EventSent:    (r.Churn.Sent - beatSent*r.Churn.Beats) / r.Churn.Events,
		EventCPU:     (r.Churn.ServerCPU - beatCPU*r.Churn.Beats) / r.Churn.Events,
		FirstSet:     r.Watch.Sent,
	}
}

// Prediction is what a load costs according to a model.
type Prediction struct {
	KeepAlives, WatchStreams, Watches float64
	Beats, Signs, Events              float64 // a second
	BeatSent, IdleSent, ChurnSent     float64 // bytes a second
	BeatCPU, ChurnCPU                 float64 // processors
	Server, Client                    float64 // bytes
}

// Predict applies the model to a load whose instances have a client each.
func (m Model) Predict(l Load) Prediction {
	i, w := float64(l.Instances), float64(l.Watchers)
	p := Prediction{
		KeepAlives: i, WatchStreams: i, Watches: i + w,
		Beats: i / l.Heartbeat.Seconds(),
		Signs: signMessages * i / SignEvery.Seconds(),
		// Each change is seen by the watchers of one service, and by the
		// registration itself, which watches its key.
		Events: l.Churn * (1 + w/float64(l.Services)),
		Server: i*(m.ClientServer+m.RegistrationServer) + w*m.WatcherServer,
		Client: i*(m.ClientClient+m.RegistrationClient) + w*m.WatcherClient,
	}
	p.BeatSent, p.BeatCPU = p.Beats*m.BeatSent, p.Beats*m.BeatCPU
	p.IdleSent = p.BeatSent + p.Signs*m.SignSent
	p.ChurnSent, p.ChurnCPU = p.BeatSent+p.Events*m.EventSent, p.BeatCPU+p.Events*m.EventCPU
	return p
}
