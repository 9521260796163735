// NOT BUILT HERE. Written beside ../node/realtime_call.mjs, which is run: the same steps under the same names.
//
// A call of a phone app, with the WebRTC package of https://github.com/stasel/WebRTC (150.0.0; BSD-3). Swift 5.9,
// iOS 17. What an app has to do beside it is in docs/mobile.md.

import AVFoundation
import Network
import WebRTC

/// The server's "no": `status`, and `code` and `message` of its error.
struct Refused: Error {
    let status: Int
    let code: String
    let message: String
}

struct NoMediaPath: Error {}

@MainActor
final class RealtimeCall: NSObject, ObservableObject {
    enum State: Equatable { case new, connecting, live, lost, ended }

    private static let requestSeconds = 15.0
    private static let connectSeconds = 15.0  // the server gives up after the same time
    private static let watchSeconds = 0.3
    private static let silentSeconds = 1.2  // three of the packets that come in silence: the network is gone
    private static let patchSeconds = 1.0  // a request may have gone out over the network that is gone
    private static let patchTries = 8  // the server keeps a call that it does not hear for 8.5 to 10 s
    private static let recoverSeconds = 4.0  // from the answer of an ICE restart to the first packet
    private static let resumeWaits = [0.0, 1, 2, 4, 8, 15, 15]  // the server keeps a lost session for 90 s
    private static let factory = RTCPeerConnectionFactory()

    @Published private(set) var state = State.new
    @Published private(set) var problem: String?
    /// Gets every event of the server.
    var onEvent: ([String: Any]) -> Void = { _ in }

    private let base: URL  // ends with "/v1"
    private let key: String?
    private var http = RealtimeCall.freshSession()
    private var pc: RTCPeerConnection?
    private var channel: RTCDataChannel?
    private var microphone: RTCAudioTrack?
    private var callURL: URL?
    private var etag: String?  // of the ICE session; nil while the server has not told it
    private var candidates: [String] = []  // ours, which the server does not know yet
    private var isTrickling = false
    private var resumeToken: String?
    private var relaysUntil = Date.distantPast  // when the credentials of the TURN servers end
    private var packets = 0
    private var packetAt = Date.distantPast
    private var isRecovering = false
    private var news = 0  // counted each time that the system has news of the network
    private var watcher: Task<Void, Never>?
    private let network = NWPathMonitor()
    private var interface: NWInterface.InterfaceType?

    init(base: URL, key: String?) {
        self.base = base
        self.key = key
    }

    /// Mute: silence is sent as a packet in 400 ms, and the server does not take the call for dead.
    var isMuted: Bool {
        get { microphone?.isEnabled == false }
        set { microphone?.isEnabled = !newValue }
    }

    /// Make the call; with a token, go on with the session of one that was lost.
    func start(resumeToken: String? = nil) async throws {
        self.resumeToken = resumeToken
        state = .connecting
        do {
            useTheAudioSession()
            try await connect(resumeToken)
        } catch {
            await hangUp()
            throw error
        }
        watchTheNetwork()
        watcher = Task { [weak self] in
            while !Task.isCancelled {
                try? await Task.sleep(for: .seconds(Self.watchSeconds))
                await self?.watch()
            }
        }
        state = .live
    }

    /// One event for the server; false while there is no connection.
    @discardableResult
    func send(_ event: [String: Any]) -> Bool {
        guard let channel, channel.readyState == .open,
            let data = try? JSONSerialization.data(withJSONObject: event)
        else { return false }
        return channel.sendData(RTCDataBuffer(data: data, isBinary: false))
    }

    /// The phone has another network now, or the app is in front again.
    func networkChanged() {
        let old = http
        http = Self.freshSession()  // the old one's connections may be those of the network that is gone
        if state == .lost {
            old.invalidateAndCancel()  // what is waited for may come at once now
            news += 1
        } else {
            old.finishTasksAndInvalidate()
        }
        recover()
    }

    /// End the call and its session. Safe to repeat.
    func hangUp() async {
        guard let url = end(nil) else { return }
        _ = try? await request("DELETE", url)  // the closed connection tells the server as well
    }

    // MARK: 1. offer and answer

    private func connect(_ token: String?) async throws {
        let servers = try await iceServers()
        let configuration = RTCConfiguration()
        configuration.iceServers = servers
        configuration.bundlePolicy = .maxBundle
        configuration.sdpSemantics = .unifiedPlan
        configuration.continualGatheringPolicy = .gatherContinually
        let none = RTCMediaConstraints(mandatoryConstraints: nil, optionalConstraints: nil)
        guard let pc = Self.factory.peerConnection(with: configuration, constraints: none, delegate: self) else {
            throw NoMediaPath()
        }
        let old = self.pc
        do {
            let source = Self.factory.audioSource(with: none)
            let track = microphone ?? Self.factory.audioTrack(with: source, trackId: "mic")
            microphone = track
            pc.add(track, streamIds: ["mic"])
            let channel = pc.dataChannel(forLabel: "oai-events", configuration: RTCDataChannelConfiguration())
            channel?.delegate = self
            (self.pc, self.channel, candidates, etag) = (pc, channel, [], nil)
            try await pc.setLocalDescription(pc.offer(for: none))
            // The offer goes out at once, without candidates; they follow as they are found.
            var target = base.appending(path: "realtime/calls")
            if let token { target.append(queryItems: [URLQueryItem(name: "resume", value: token)]) }
            let offer = pc.localDescription?.sdp ?? ""
            let (body, reply) = try await request("POST", target, type: "application/sdp", body: offer)
            let location = reply.value(forHTTPHeaderField: "Location") ?? ""
            callURL = URL(string: location, relativeTo: base)?.absoluteURL
            resumeToken = reply.value(forHTTPHeaderField: "Resume-Token") ?? resumeToken
            etag = reply.value(forHTTPHeaderField: "ETag")
            let answer = String(decoding: body, as: UTF8.self)
            try await pc.setRemoteDescription(RTCSessionDescription(type: .answer, sdp: answer))
            trickle()
            try await connected(pc)
            packetAt = Date()
        } catch {
            pc.close()
            self.pc = old
            throw error
        }
        // Not before: a connection that is closed says goodbye, and that would end the session.
        old?.close()
    }

    private func iceServers(seconds: Double = RealtimeCall.requestSeconds) async throws -> [RTCIceServer] {
        let (body, _) = try await request("GET", base.appending(path: "realtime/ice-servers"), seconds: seconds)
        let found = try JSONSerialization.jsonObject(with: body) as? [String: Any]
        relaysUntil = Date().addingTimeInterval((found?["ttl"] as? NSNumber)?.doubleValue ?? 0)
        return (found?["iceServers"] as? [[String: Any]] ?? []).map { server in
            let urls = server["urls"] as? [String] ?? [server["urls"] as? String].compactMap { $0 }
            let name = server["username"] as? String
            return RTCIceServer(urlStrings: urls, username: name, credential: server["credential"] as? String)
        }
    }

    private func connected(_ pc: RTCPeerConnection) async throws {
        let deadline = Date().addingTimeInterval(Self.connectSeconds)
        while pc.connectionState != .connected || channel?.readyState != .open {
            if pc.connectionState == .failed || channel?.readyState == .closed || Date() > deadline {
                throw NoMediaPath()
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    // MARK: 2. trickle (RFC 8840, with the tags of RFC 9725 section 4.3)

    /// One request at a time; what is found meanwhile goes with the next.
    private func trickle() {
        guard !isTrickling, !candidates.isEmpty else { return }
        guard let etag, let callURL, let sdp = pc?.localDescription?.sdp else { return }
        let lines = sdp.components(separatedBy: "\r\n")
        let line = { (name: String) in lines.first { $0.hasPrefix("a=\(name):") } ?? "" }
        let head = [line("ice-ufrag"), line("ice-pwd"), "m=audio 9 UDP/TLS/RTP/SAVPF 0", line("mid")]
        let body = (head + candidates + [""]).joined(separator: "\r\n")
        candidates = []
        isTrickling = true
        Task {
            // 412: of an ICE session that is over. Lost: the server also finds a phone by its checks.
            _ = try? await request("PATCH", callURL, type: "application/trickle-ice-sdpfrag", body: body, ifMatch: etag)
            isTrickling = false
            trickle()
        }
    }

    // MARK: 3. events: see RTCDataChannelDelegate below

    private func received(_ event: [String: Any]) {
        guard state != .ended else { return }
        if event["type"] as? String == "rtc_server.session.resumable" {
            resumeToken = event["resume_token"] as? String ?? resumeToken
        }
        onEvent(event)
    }

    // MARK: 4. notice that the network is gone: seconds before ICE does, and in whatever silence

    private func watch() async {
        guard let pc, state != .ended else { return }
        let report = await pc.statistics()
        guard pc === self.pc, state != .ended else { return }
        let inbound = report.statistics.values.filter { $0.type == "inbound-rtp" }
        let now = inbound.reduce(0) { $0 + (($1.values["packetsReceived"] as? NSNumber)?.intValue ?? 0) }
        if now != packets {
            (packets, packetAt) = (now, Date())
        } else if Date().timeIntervalSince(packetAt) > Self.silentSeconds || pc.connectionState == .failed {
            recover()
        }
    }

    private func watchTheNetwork() {
        network.pathUpdateHandler = { [weak self] path in
            let used = path.availableInterfaces.first { path.usesInterfaceType($0.type) }?.type
            Task { @MainActor in
                guard let self, path.status == .satisfied, used != self.interface else { return }
                let isFirst = self.interface == nil
                self.interface = used
                if !isFirst { self.networkChanged() }
            }
        }
        network.start(queue: .main)
    }

    // MARK: 5. find another way: an ICE restart, and where the call is gone, another call with the same session

    private func recover() {
        guard !isRecovering, state == .live else { return }
        isRecovering = true
        state = .lost
        Task {
            defer { isRecovering = false }
            do {
                if try await !restartIce() { try await resume() }
                if state == .lost { state = .live }
            } catch {
                _ = end("\(error)")
            }
        }
    }

    /// True when the server is heard again; false when the call is gone.
    private func restartIce() async throws -> Bool {
        guard let pc else { return false }
        let (begun, known) = (Date(), news)
        if begun > relaysUntil, let servers = try? await iceServers(seconds: Self.patchSeconds) {
            let configuration = pc.configuration
            configuration.iceServers = servers
            pc.setConfiguration(configuration)  // without a network the old ones stay
        }
        (etag, candidates) = (nil, [])
        let restart = RTCMediaConstraints(
            mandatoryConstraints: [kRTCMediaConstraintsIceRestart: kRTCMediaConstraintsValueTrue],
            optionalConstraints: nil)
        try await pc.setLocalDescription(pc.offer(for: restart))
        guard let (body, reply) = await offerAgain(pc.localDescription?.sdp ?? "") else { return false }
        etag = reply.value(forHTTPHeaderField: "ETag")
        let answer = String(decoding: body, as: UTF8.self)
        try await pc.setRemoteDescription(RTCSessionDescription(type: .answer, sdp: answer))
        trickle()
        let limit = Double(Self.patchTries) * Self.patchSeconds + Self.recoverSeconds
        while Date().timeIntervalSince(begun) < limit {
            if packetAt > begun { return true }
            if known != news { return try await restartIce() }
            try await Task.sleep(for: .milliseconds(20))
        }
        return false
    }

    /// The same offer again is answered with the same answer, so a lost reply does no harm.
    private func offerAgain(_ sdp: String) async -> (Data, HTTPURLResponse)? {
        guard let callURL else { return nil }
        for _ in 0..<Self.patchTries where state != .ended {
            do {
                return try await request(
                    "PATCH", callURL, type: "application/sdp", body: sdp, ifMatch: "*", seconds: Self.patchSeconds)
            } catch is Refused {
                return nil
            } catch {
                await pause(0.1)  // no network at the moment
            }
        }
        return nil
    }

    /// Another call goes on with the session. Throws Refused (404, `resume_not_found`) when it is over.
    private func resume() async throws {
        var last: Error = NoMediaPath()
        var tries = 0
        while tries < Self.resumeWaits.count {
            let known = news
            await pause(Self.resumeWaits[tries])
            if state == .ended { return }
            do {
                return try await connect(resumeToken)
            } catch let refused as Refused where refused.status < 500 && refused.status != 429 {
                throw refused
            } catch {
                last = error
            }
            tries = known == news ? tries + 1 : 0  // there is a network: at once, and with all patience again
        }
        throw last
    }

    // MARK: inside

    /// Waits, but no longer than until there is news of the network, or the call is over.
    private func pause(_ seconds: Double) async {
        let (known, end) = (news, Date().addingTimeInterval(seconds))
        while Date() < end, known == news, state != .ended {
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Echo cancellation, and the loudspeaker or whatever is connected; goes on in the background with the background
    /// mode "audio". WebRTC activates the session when sound begins. An app with CallKit sets `useManualAudio` of
    /// `RTCAudioSession` and waits for `provider(_:didActivate:)` instead.
    private func useTheAudioSession() {
        let configuration = RTCAudioSessionConfiguration.webRTC()
        configuration.category = AVAudioSession.Category.playAndRecord.rawValue
        configuration.categoryOptions = [.allowBluetooth, .defaultToSpeaker]
        configuration.mode = AVAudioSession.Mode.voiceChat.rawValue
        RTCAudioSessionConfiguration.setWebRTC(configuration)
    }

    /// The address to hang up, if there is one.
    private func end(_ problem: String?) -> URL? {
        guard state != .ended else { return nil }
        watcher?.cancel()
        network.cancel()
        pc?.close()
        self.problem = problem
        state = .ended
        return callURL
    }

    private static func freshSession() -> URLSession {
        URLSession(configuration: .ephemeral)
    }

    private func request(
        _ method: String, _ url: URL, type: String? = nil, body: String? = nil, ifMatch: String? = nil,
        seconds: Double = RealtimeCall.requestSeconds
    ) async throws -> (Data, HTTPURLResponse) {
        var request = URLRequest(url: url, timeoutInterval: seconds)
        request.httpMethod = method
        request.httpBody = body.map { Data($0.utf8) }
        if let key { request.setValue("Bearer \(key)", forHTTPHeaderField: "Authorization") }
        if let type { request.setValue(type, forHTTPHeaderField: "Content-Type") }
        if let ifMatch { request.setValue(ifMatch, forHTTPHeaderField: "If-Match") }
        let (data, response) = try await http.data(for: request)
        guard let reply = response as? HTTPURLResponse else { throw URLError(.badServerResponse) }
        if (200..<300).contains(reply.statusCode) { return (data, reply) }
        let found = try? JSONSerialization.jsonObject(with: data) as? [String: Any]
        let error = found?["error"] as? [String: Any]
        throw Refused(
            status: reply.statusCode, code: error?["code"] as? String ?? "unknown",
            message: error?["message"] as? String ?? "no reason given")
    }
}

// WebRTC calls these on threads of its own; the main queue keeps their order.

extension RealtimeCall: RTCPeerConnectionDelegate {
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didGenerate candidate: RTCIceCandidate) {
        DispatchQueue.main.async {
            MainActor.assumeIsolated {
                guard pc === self.pc else { return }
                self.candidates.append("a=\(candidate.sdp)")
                self.trickle()
            }
        }
    }

    nonisolated func peerConnection(_ pc: RTCPeerConnection, didChange state: RTCIceGatheringState) {}
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didChange state: RTCIceConnectionState) {}
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didChange state: RTCSignalingState) {}
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didAdd stream: RTCMediaStream) {}  // it is played
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didRemove stream: RTCMediaStream) {}
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didRemove candidates: [RTCIceCandidate]) {}
    nonisolated func peerConnection(_ pc: RTCPeerConnection, didOpen channel: RTCDataChannel) {}
    nonisolated func peerConnectionShouldNegotiate(_ pc: RTCPeerConnection) {}
}

extension RealtimeCall: RTCDataChannelDelegate {
    nonisolated func dataChannelDidChangeState(_ channel: RTCDataChannel) {}

    nonisolated func dataChannel(_ channel: RTCDataChannel, didReceiveMessageWith buffer: RTCDataBuffer) {
        DispatchQueue.main.async {
            MainActor.assumeIsolated {
                guard channel === self.channel,
                    let event = try? JSONSerialization.jsonObject(with: buffer.data) as? [String: Any]
                else { return }
                self.received(event)
            }
        }
    }
}
