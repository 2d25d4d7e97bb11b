package gateway

import "github.com/valise-mail/valise/node/web"

// What a person reads when a link does not open: what happened, and what to do next.
var (
	deniedWords = map[web.Lang]refusalWords{
		web.English: {
			"This link does not open",
			"It may have been withdrawn, it may have expired, or a part of it was lost on the way.",
			"Copy the whole link from the message and try once more. If it still does not open, ask the sender for a new link.",
		},
		web.Chinese: {
			"此链接无法打开",
			"链接可能已被撤回、已过期，或在传递过程中缺失了一部分。",
			"请从邮件中完整复制链接后再试一次。如果仍然无法打开，请向发件人索取新的链接。",
		},
	}
	invalidWords = map[web.Lang]refusalWords{
		web.English: {
			"There is no such file behind this link",
			"The file name in the link is not the one the sender chose.",
			"Copy the whole link from the message, up to the end of the file name, and try once more. If that does not help, ask the sender for a new link.",
		},
		web.Chinese: {
			"链接中没有这个文件",
			"链接里的文件名与发件人选定的文件名不一致。",
			"请从邮件中完整复制链接（直到文件名末尾）后再试一次。如果仍有问题，请向发件人索取新的链接。",
		},
	}
	notYetWords = map[web.Lang]refusalWords{
		web.English: {
			"Just a moment",
			"This link is genuine, but news of it has not reached this server yet.",
			"Try again in a few seconds. If this goes on for more than a few minutes, ask the sender for a new link.",
		},
		web.Chinese: {
			"请稍候",
			"此链接有效，但相关信息尚未到达这台服务器。",
			"请过几秒再试。如果几分钟后仍然如此，请向发件人索取新的链接。",
		},
	}
	unavailableWords = map[web.Lang]refusalWords{
		web.English: {
			"The file cannot be fetched right now",
			"The link is good and the file is not lost, but the places that keep it cannot be reached at the moment.",
			"Try again in a few minutes.",
		},
		web.Chinese: {
			"暂时无法取得文件",
			"链接有效，文件也没有丢失，只是目前无法连接到保存该文件的节点。",
			"请几分钟后再试。",
		},
	}
	staleWords = map[web.Lang]refusalWords{
		web.English: {
			"This server is cut off for the moment",
			"It cannot reach the rest of its cluster, so it cannot tell whether the link is still valid.",
			"Try again in a few minutes.",
		},
		web.Chinese: {
			"这台服务器暂时与集群失去联系",
			"目前无法确认此链接是否仍然有效。",
			"请几分钟后再试。",
		},
	}
	restoringWords = map[web.Lang]refusalWords{
		web.English: {
			"The organisation is restoring its files",
			"They were brought back from a backup. Links open again when it is known which of them were withdrawn since.",
			"Try again later. If it takes long, ask the sender.",
		},
		web.Chinese: {
			"该组织正在恢复文件",
			"文件正从备份中恢复。确认备份之后有哪些链接已被撤回，链接才会重新开放。",
			"请稍后再试。如果时间较长，请询问发件人。",
		},
	}
	brokenWords = map[web.Lang]refusalWords{
		web.English: {"Something went wrong here", "The fault is on this side, not yours.", "Try again in a few minutes. If it happens again, tell the sender."},
		web.Chinese: {"服务器出错了", "问题出在我们这边。", "请几分钟后再试。如果再次发生，请告知发件人。"},
	}
	notFoundWords = map[web.Lang]refusalWords{
		web.English: {"There is nothing here", "This address is not the link of a file.", "Copy the whole link from the message and try once more."},
		web.Chinese: {"这里什么也没有", "这个地址不是文件链接。", "请从邮件中完整复制链接后再试一次。"},
	}
	methodWords = map[web.Lang]refusalWords{
		web.English: {"That cannot be done here", "Links can only be opened.", "Open the link from the message."},
		web.Chinese: {"不支持此操作", "链接只能打开，不能用于其他操作。", "请直接打开邮件中的链接。"},
	}
	rangeWords = map[web.Lang]refusalWords{
		web.English: {"The download cannot go on from there", "The file is shorter than the part asked for: it may have changed since the download began.", "Start the download anew."},
		web.Chinese: {"无法从该位置继续下载", "文件比所请求的部分更短，可能在下载开始后已被更新。", "请重新下载。"},
	}
	changedWords = map[web.Lang]refusalWords{
		web.English: {"The file is another version now", "The request asked for one version only, and the sender has changed the file since.", "Start the download anew."},
		web.Chinese: {"文件已有新版本", "请求只接受某一版本，而发件人此后更新了文件。", "请重新下载。"},
	}
	misdirectedWords = map[web.Lang]refusalWords{
		web.English: {"This server does not answer to that name", "The request named another host.", "Open the link exactly as it stands in the message."},
		web.Chinese: {"此服务器不使用该名称", "请求中的主机名不正确。", "请按邮件中的原样打开链接。"},
	}
)

// pageWords stand on the pages of files.
type pageWords struct {
	Download, From, Sent, Size, Version, Changed, InAll string

	Newest, AsSent string    // the two versions, and the links from each to the other
	Changes        [4]string // what became of the file since; by seen
	Pinned         string
	ToSent, ToNew  string
	// Headings of a landing page; Files holds %d.
	NoFile, OneFile, Files string
}

// What a version on a page is, as an index into pageWords.Changes.
const (
	newestChanged = iota
	newestSame
	sentChanged
	sentSame
)

var wordsOfPages = map[web.Lang]*pageWords{
	web.English: {
		Download: "Download", From: "From", Sent: "Sent", Size: "Size", Version: "Version", Changed: "Changed", InAll: "In all",
		Newest: "Newest", AsSent: "As sent",
		Changes: [4]string{
			newestChanged: "The sender has changed this file since the message went out. This is the newest version.",
			newestSame:    "The file has not changed since it was sent. If the sender changes it, this link opens the new version.",
			sentChanged:   "This is the file as it was sent. The sender has changed it since.",
			sentSame:      "This is the file as it was sent. It has not changed since.",
		},
		Pinned: "This is the file as it was sent. It will not change.",
		ToSent: "Show it as it was sent", ToNew: "Show the newest version",
		NoFile: "The files of this message were withdrawn", OneFile: "One file for you", Files: "%d files for you",
	},
	web.Chinese: {
		Download: "下载", From: "发件人", Sent: "发送时间", Size: "大小", Version: "版本", Changed: "更新时间", InAll: "合计",
		Newest: "最新版本", AsSent: "发送时的版本",
		Changes: [4]string{
			newestChanged: "邮件发出后，发件人更新了此文件。当前显示的是最新版本。",
			newestSame:    "此文件自发送以来没有变化。如果发件人更新它，此链接将打开新版本。",
			sentChanged:   "当前显示的是发送时的版本。此后发件人更新了此文件。",
			sentSame:      "当前显示的是发送时的版本，此后没有变化。",
		},
		Pinned: "这是发送时的文件，内容不会改变。",
		ToSent: "查看发送时的版本", ToNew: "查看最新版本",
		NoFile: "此邮件的文件已被撤回", OneFile: "您收到 1 个文件", Files: "您收到 %d 个文件",
	},
}
