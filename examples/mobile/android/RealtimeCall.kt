// NOT BUILT HERE. Written beside ../node/realtime_call.mjs, which is run: the same steps under the same names.
//
// A call of a phone app, with io.github.webrtc-sdk:android:137.7151.05 (MIT around BSD-3) and com.squareup.okhttp3.
// Kotlin 2, Android 8 and later. All of it runs on the main thread. What an app has to do beside it is in
// docs/mobile.md.

package org.example.talk

import android.content.Context
import android.net.ConnectivityManager
import android.net.Network
import android.os.SystemClock
import kotlinx.coroutines.CancellableContinuation
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.suspendCancellableCoroutine
import kotlinx.coroutines.withContext
import okhttp3.MediaType.Companion.toMediaType
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody.Companion.toRequestBody
import okhttp3.Response
import org.json.JSONArray
import org.json.JSONObject
import org.webrtc.AudioTrack
import org.webrtc.DataChannel
import org.webrtc.IceCandidate
import org.webrtc.MediaConstraints
import org.webrtc.MediaStream
import org.webrtc.PeerConnection
import org.webrtc.PeerConnectionFactory
import org.webrtc.RTCStatsReport
import org.webrtc.RtpReceiver
import org.webrtc.SdpObserver
import org.webrtc.SessionDescription
import org.webrtc.audio.JavaAudioDeviceModule
import java.io.IOException
import java.nio.ByteBuffer
import java.util.concurrent.TimeUnit
import kotlin.coroutines.resume
import kotlin.coroutines.resumeWithException

/** The server's "no": `status`, and `code` and message of its error. */
class Refused(val status: Int, val code: String, message: String) : Exception("$status $code: $message")

class NoMediaPath : Exception("no media path to the server")

enum class CallState { NEW, CONNECTING, LIVE, LOST, ENDED }

private const val REQUEST_MS = 15_000L
private const val CONNECT_MS = 15_000L // the server gives up after the same time
private const val WATCH_MS = 300L
private const val SILENT_MS = 1_200L // three of the packets that the server sends in silence: the network is gone
private const val PATCH_MS = 1_000L // a request may have gone out over the network that is gone
private const val PATCH_TRIES = 8 // the server keeps a call that it does not hear for 8.5 to 10 s
private const val RECOVER_MS = 4_000L // from the answer of an ICE restart to the first packet
private val RESUME_WAITS_MS = longArrayOf(0, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000) // kept for 90 s

/** `base` ends with "/v1"; `key` is an ephemeral key of your own back end, never the API key. */
class RealtimeCall(
    private val context: Context,
    private val base: String,
    private val key: String?,
    private val onEvent: (JSONObject) -> Unit,
) {
    val state = MutableStateFlow(CallState.NEW)
    var problem: Throwable? = null
        private set

    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Main.immediate)
    private val http = OkHttpClient()
    private val audio = JavaAudioDeviceModule.builder(context)
        .setUseHardwareAcousticEchoCanceler(true)
        .setUseHardwareNoiseSuppressor(true)
        .createAudioDeviceModule()
    private val factory: PeerConnectionFactory
    private val microphone: AudioTrack
    private var pc: PeerConnection? = null
    private var channel: DataChannel? = null
    private var callUrl: String? = null
    private var etag: String? = null // of the ICE session; null while the server has not told it
    private var candidates = mutableListOf<String>() // ours, which the server does not know yet
    private var isTrickling = false
    private var resumeToken: String? = null
    private var relaysUntil = 0L // when the credentials of the TURN servers end
    private var packets = 0L
    private var packetAt = 0L
    private var recovering: Job? = null
    private var network: Network? = null
    private var news = 0 // counted each time that the system has news of the network

    init {
        val options = PeerConnectionFactory.InitializationOptions.builder(context.applicationContext)
        PeerConnectionFactory.initialize(options.createInitializationOptions())
        factory = PeerConnectionFactory.builder().setAudioDeviceModule(audio).createPeerConnectionFactory()
        microphone = factory.createAudioTrack("mic", factory.createAudioSource(MediaConstraints()))
    }

    /** Mute: silence is sent as a packet in 400 ms, and the server does not take the call for dead. */
    var isMuted: Boolean
        get() = !microphone.enabled()
        set(value) { microphone.setEnabled(!value) }

    /** Make the call; with a token, go on with the session of one that was lost. */
    suspend fun start(token: String? = null) {
        resumeToken = token
        state.value = CallState.CONNECTING
        try {
            connect(token)
        } catch (error: Exception) {
            hangUp()
            throw error
        }
        connectivity().registerDefaultNetworkCallback(networkCallback)
        scope.launch { while (true) { delay(WATCH_MS); watch() } }
        state.value = CallState.LIVE
    }

    /** One event for the server; false while there is no connection. */
    fun send(event: JSONObject): Boolean {
        val open = channel?.takeIf { it.state() == DataChannel.State.OPEN } ?: return false
        return open.send(DataChannel.Buffer(ByteBuffer.wrap(event.toString().toByteArray()), false))
    }

    /** The phone has another network now, or the app is in front again. */
    fun networkChanged() {
        http.connectionPool.evictAll() // its connections may be those of the network that is gone
        if (state.value == CallState.LOST) {
            http.dispatcher.cancelAll() // what is waited for may come at once now
            news++
        }
        recover()
    }

    /** End the call and its session. Safe to repeat. */
    suspend fun hangUp() {
        val url = end(null) ?: return
        runCatching { request("DELETE", url) } // the closed connection tells the server as well
    }

    // --- 1. offer and answer

    private fun configured(servers: List<PeerConnection.IceServer>) = PeerConnection.RTCConfiguration(servers).apply {
        bundlePolicy = PeerConnection.BundlePolicy.MAXBUNDLE
        sdpSemantics = PeerConnection.SdpSemantics.UNIFIED_PLAN
        continualGatheringPolicy = PeerConnection.ContinualGatheringPolicy.GATHER_CONTINUALLY
    }

    private suspend fun connect(token: String?) {
        val configuration = configured(iceServers())
        val observer = Observer()
        val made = factory.createPeerConnection(configuration, observer) ?: throw NoMediaPath()
        observer.owner = made
        val old = pc
        try {
            made.addTrack(microphone, listOf("mic"))
            val events = made.createDataChannel("oai-events", DataChannel.Init())
            events.registerObserver(Events(events))
            pc = made
            channel = events
            candidates = mutableListOf()
            etag = null
            made.setLocal(made.offer(MediaConstraints()))
            // The offer goes out at once, without candidates; they follow as they are found.
            val query = if (token == null) "" else "?resume=$token"
            val offer = made.localDescription.description
            val reply = request("POST", "$base/realtime/calls$query", "application/sdp", offer)
            callUrl = reply.location?.let { java.net.URI(base).resolve(it).toString() }
            resumeToken = reply.resumeToken ?: resumeToken
            etag = reply.etag
            made.setRemote(SessionDescription(SessionDescription.Type.ANSWER, reply.body))
            trickle()
            connected(made, events)
            packetAt = SystemClock.elapsedRealtime()
        } catch (error: Exception) {
            made.dispose()
            pc = old
            throw error
        }
        // Not before: a connection that is closed says goodbye, and that would end the session.
        old?.dispose()
    }

    private suspend fun iceServers(ms: Long = REQUEST_MS): List<PeerConnection.IceServer> {
        val body = JSONObject(request("GET", "$base/realtime/ice-servers", ms = ms).body)
        relaysUntil = SystemClock.elapsedRealtime() + body.optLong("ttl") * 1_000
        val found = body.optJSONArray("iceServers") ?: JSONArray()
        return (0 until found.length()).map { found.getJSONObject(it) }.map { server ->
            val urls = server.optJSONArray("urls")?.let { all -> (0 until all.length()).map(all::getString) }
                ?: listOf(server.getString("urls"))
            PeerConnection.IceServer.builder(urls)
                .setUsername(server.optString("username"))
                .setPassword(server.optString("credential"))
                .createIceServer()
        }
    }

    private suspend fun connected(made: PeerConnection, events: DataChannel) {
        val deadline = SystemClock.elapsedRealtime() + CONNECT_MS
        while (made.connectionState() != PeerConnection.PeerConnectionState.CONNECTED ||
            events.state() != DataChannel.State.OPEN
        ) {
            val isOver = made.connectionState() == PeerConnection.PeerConnectionState.FAILED ||
                events.state() == DataChannel.State.CLOSED
            if (isOver || SystemClock.elapsedRealtime() > deadline) throw NoMediaPath()
            delay(20)
        }
    }

    // --- 2. trickle (RFC 8840, with the tags of RFC 9725 section 4.3)

    /** One request at a time; what is found meanwhile goes with the next. */
    private fun trickle() {
        val tag = etag ?: return
        val url = callUrl ?: return
        val sdp = pc?.localDescription?.description ?: return
        if (isTrickling || candidates.isEmpty()) return
        val line = { name: String -> sdp.lineSequence().first { it.startsWith("a=$name:") } }
        val head = listOf(line("ice-ufrag"), line("ice-pwd"), "m=audio 9 UDP/TLS/RTP/SAVPF 0", line("mid"))
        val body = (head + candidates + "").joinToString("\r\n")
        candidates = mutableListOf()
        isTrickling = true
        scope.launch {
            // 412: of an ICE session that is over. Lost: the server also finds a phone by its checks.
            runCatching { request("PATCH", url, "application/trickle-ice-sdpfrag", body, tag) }
            isTrickling = false
            trickle()
        }
    }

    // --- 3. events

    private fun received(event: JSONObject) {
        if (state.value == CallState.ENDED) return
        if (event.optString("type") == "rtc_server.session.resumable") resumeToken = event.getString("resume_token")
        onEvent(event)
    }

    // --- 4. notice that the network is gone: seconds before ICE does, and in whatever silence

    private suspend fun watch() {
        val watched = pc ?: return
        val report = suspendCancellableCoroutine { done: CancellableContinuation<RTCStatsReport> ->
            watched.getStats { if (done.isActive) done.resume(it) }
        }
        if (watched !== pc || state.value == CallState.ENDED) return
        val inbound = report.statsMap.values.filter { it.type == "inbound-rtp" }
        val now = inbound.sumOf { (it.members["packetsReceived"] as? Number)?.toLong() ?: 0L }
        val at = SystemClock.elapsedRealtime()
        if (now != packets) {
            packets = now
            packetAt = at
        } else {
            val isFailed = watched.connectionState() == PeerConnection.PeerConnectionState.FAILED
            if (isFailed || at - packetAt > SILENT_MS) recover()
        }
    }

    private val networkCallback = object : ConnectivityManager.NetworkCallback() {
        override fun onAvailable(found: Network) {
            scope.launch {
                val isFirst = network == null
                if (network == found) return@launch
                network = found
                if (!isFirst) networkChanged()
            }
        }
    }

    // --- 5. find another way: an ICE restart, and where the call is gone, another call with the same session

    private fun recover() {
        if (recovering?.isActive == true || state.value != CallState.LIVE) return
        state.value = CallState.LOST
        recovering = scope.launch {
            try {
                if (!restartIce()) resume()
                if (state.value == CallState.LOST) state.value = CallState.LIVE
            } catch (error: Exception) {
                end(error)
            }
        }
    }

    /** True when the server is heard again; false when the call is gone. */
    private suspend fun restartIce(): Boolean {
        val moved = pc ?: return false
        val begun = SystemClock.elapsedRealtime()
        val known = news
        if (begun > relaysUntil) { // without a network the old ones stay
            runCatching { iceServers(PATCH_MS) }.onSuccess { moved.setConfiguration(configured(it)) }
        }
        etag = null
        candidates = mutableListOf()
        val restart = MediaConstraints().apply { mandatory.add(MediaConstraints.KeyValuePair("IceRestart", "true")) }
        moved.setLocal(moved.offer(restart))
        val reply = offerAgain(moved.localDescription.description) ?: return false
        etag = reply.etag
        moved.setRemote(SessionDescription(SessionDescription.Type.ANSWER, reply.body))
        trickle()
        while (SystemClock.elapsedRealtime() - begun < PATCH_TRIES * PATCH_MS + RECOVER_MS) {
            if (packetAt > begun) return true
            if (known != news) return restartIce()
            delay(20)
        }
        return false
    }

    /** The same offer again is answered with the same answer, so a lost reply does no harm. */
    private suspend fun offerAgain(sdp: String): Reply? {
        val url = callUrl ?: return null
        repeat(PATCH_TRIES) {
            if (state.value == CallState.ENDED) return null
            try {
                return request("PATCH", url, "application/sdp", sdp, "*", PATCH_MS)
            } catch (refused: Refused) {
                return null
            } catch (error: IOException) {
                pause(100) // no network at the moment
            }
        }
        return null
    }

    /** Another call goes on with the session. Throws Refused (404, `resume_not_found`) when it is over. */
    private suspend fun resume() {
        var last: Exception = NoMediaPath()
        var tries = 0
        while (tries < RESUME_WAITS_MS.size) {
            val known = news
            pause(RESUME_WAITS_MS[tries])
            if (state.value == CallState.ENDED) return
            try {
                return connect(resumeToken)
            } catch (refused: Refused) {
                if (refused.status < 500 && refused.status != 429) throw refused
                last = refused
            } catch (error: IOException) {
                last = error
            } catch (error: NoMediaPath) {
                last = error
            }
            tries = if (known == news) tries + 1 else 0 // there is a network: at once, and with all patience again
        }
        throw last
    }

    // --- inside

    /** Waits, but no longer than until there is news of the network, or the call is over. */
    private suspend fun pause(ms: Long) {
        val known = news
        val end = SystemClock.elapsedRealtime() + ms
        while (SystemClock.elapsedRealtime() < end && known == news && state.value != CallState.ENDED) delay(20)
    }

    /** The address to hang up, if there is one. */
    private fun end(error: Throwable?): String? {
        if (state.value == CallState.ENDED) return null
        problem = error
        state.value = CallState.ENDED
        runCatching { connectivity().unregisterNetworkCallback(networkCallback) } // it may not be registered yet
        scope.cancel()
        pc?.dispose()
        pc = null
        factory.dispose()
        audio.release()
        return callUrl
    }

    private fun connectivity() = context.getSystemService(ConnectivityManager::class.java)

    private class Reply(val body: String, val etag: String?, val location: String?, val resumeToken: String?)

    private suspend fun request(
        method: String,
        url: String,
        type: String? = null,
        body: String? = null,
        ifMatch: String? = null,
        ms: Long = REQUEST_MS,
    ): Reply = withContext(Dispatchers.IO) {
        val client = http.newBuilder().callTimeout(ms, TimeUnit.MILLISECONDS).build()
        val request = Request.Builder().url(url).method(method, body?.toByteArray()?.toRequestBody(type?.toMediaType()))
        if (key != null) request.header("Authorization", "Bearer $key")
        if (ifMatch != null) request.header("If-Match", ifMatch)
        client.newCall(request.build()).execute().use { reply -> read(reply) }
    }

    private fun read(reply: Response): Reply {
        val text = reply.body?.string().orEmpty()
        if (reply.isSuccessful) {
            return Reply(text, reply.header("ETag"), reply.header("Location"), reply.header("Resume-Token"))
        }
        val error = runCatching { JSONObject(text).getJSONObject("error") }.getOrNull()
        val code = error?.optString("code") ?: "unknown"
        throw Refused(reply.code, code, error?.optString("message") ?: "no reason given")
    }

    private suspend fun PeerConnection.offer(constraints: MediaConstraints): SessionDescription =
        described { createOffer(it, constraints) }!!

    private suspend fun PeerConnection.setLocal(sdp: SessionDescription) {
        described { setLocalDescription(it, sdp) }
    }

    private suspend fun PeerConnection.setRemote(sdp: SessionDescription) {
        described { setRemoteDescription(it, sdp) }
    }

    /** What WebRTC tells an observer: the description that it made, or null when it took one. */
    private suspend fun described(ask: (SdpObserver) -> Unit): SessionDescription? =
        suspendCancellableCoroutine { done ->
            ask(object : SdpObserver {
                override fun onCreateSuccess(sdp: SessionDescription) = done.resume(sdp)
                override fun onSetSuccess() = done.resume(null)
                override fun onCreateFailure(reason: String?) = done.resumeWithException(IllegalStateException(reason))
                override fun onSetFailure(reason: String?) = done.resumeWithException(IllegalStateException(reason))
            })
        }

    // WebRTC calls these on threads of its own.

    private inner class Observer : PeerConnection.Observer {
        var owner: PeerConnection? = null

        override fun onIceCandidate(candidate: IceCandidate) {
            scope.launch {
                if (owner !== pc) return@launch
                candidates += "a=${candidate.sdp}"
                trickle()
            }
        }

        override fun onSignalingChange(state: PeerConnection.SignalingState) = Unit
        override fun onIceConnectionChange(state: PeerConnection.IceConnectionState) = Unit
        override fun onIceConnectionReceivingChange(isReceiving: Boolean) = Unit
        override fun onIceGatheringChange(state: PeerConnection.IceGatheringState) = Unit
        override fun onIceCandidatesRemoved(removed: Array<out IceCandidate>) = Unit
        override fun onAddStream(stream: MediaStream) = Unit // it is played
        override fun onRemoveStream(stream: MediaStream) = Unit
        override fun onDataChannel(offered: DataChannel) = Unit
        override fun onRenegotiationNeeded() = Unit
        override fun onAddTrack(receiver: RtpReceiver, streams: Array<out MediaStream>) = Unit
    }

    private inner class Events(val owner: DataChannel) : DataChannel.Observer {
        override fun onBufferedAmountChange(before: Long) = Unit
        override fun onStateChange() = Unit

        override fun onMessage(buffer: DataChannel.Buffer) {
            val bytes = ByteArray(buffer.data.remaining()).also(buffer.data::get) // it is WebRTC's after the return
            scope.launch {
                if (owner !== channel) return@launch
                runCatching { JSONObject(String(bytes)) }.onSuccess(::received)
            }
        }
    }
}
