"""How each known kind of forum marks its posts (MiMo 2.1: forum pages).

One row an engine: what its pages hold that no others do, where the words of posts and comments stand, what their scores
are called. Selectors are of the engines' own templates, so a site's theme seldom matters. Adding an engine is adding
a row.
"""

# ruff: noqa: E501

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["question", "answer", "comment"]


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of forum."""

    name: str
    marks: tuple[str, ...]
    """Pieces of classes, ids, slots or test ids, any of which a page of this engine has (`source_names`); looked for
    before anything else."""
    posts: str
    """CSS selector of the elements that hold a post's words, opener included, none inside another."""
    post: str = ""
    """Selector of the element around such a body that also holds its score; empty if there are no scores."""
    comments: str = ""
    """Selector of the bodies of comments on posts."""
    comment: str = ""
    """Selector of the element around a comment's body that also holds its score."""
    opener: str = ""
    """Selector of the question's body, where it differs from the others'; empty: the first of `posts`."""
    later: Role = "answer"
    """What the posts after the opener are."""
    score: str = ""
    """Selector of a post's score inside `post`."""
    comment_score: str = ""
    """Selector of a comment's score inside `comment`."""
    accepted: str = ""
    """Selector that holds of `post`, or of something inside it, if this answer was accepted."""
    chrome: str = ""
    """Selector of what stands inside a body and is none of the author's words."""
    title: str = ""
    """Selector of the thread's title."""
    repeats: str = ""
    """Selector of what holds copies of posts that stand elsewhere on the page, signatures, or posts that were deleted."""


ENGINES = (
    Engine(
        "Stack Exchange", ("js-post-body", "post-text"),
        ".js-post-body, #question .post-text, .answer .post-text, #question .s-prose, .answer .s-prose",
        post="#question, .question, .answer", opener="#question .js-post-body, .question .js-post-body, "
        "#question .post-text, .question .post-text, #question .s-prose",
        comments=".comment-copy", comment="li.comment, tr.comment, .comment",
        score=".js-vote-count, .vote-count-post", comment_score=".comment-score span, .comment-score",
        accepted=".accepted-answer, .js-accepted-answer", chrome=".js-post-notices, .question-status",
        title="#question-header h1",
    ),
    Engine(
        "Discourse", ("crawler-post", "topic-post"),
        ".crawler-post .post, .topic-post .regular .cooked, .topic-post article .cooked, article[data-post-id] .cooked",
        post=".crawler-post, .topic-post, article[data-post-id]",
        score=".post-likes, [itemprop='userInteractionCount'], button.like-count",
        accepted=".accepted-answer, [itemprop='acceptedAnswer']", chrome=".meta, .quote-controls, .lightbox .meta, .cooked-selection-barrier",
        title="#topic-title h1, .fancy-title, h1[itemprop='headline']",
    ),
    Engine(
        "GitHub", ("js-discussion", "timeline-comment", "react-issue-comment", "issue-body", "comment-body"),
        "[data-testid='issue-body'] .markdown-body, .react-issue-comment .markdown-body, "
        "[data-testid='comment-body'] .markdown-body, .timeline-comment .comment-body, .js-comment-body, "
        ".timeline-comment .markdown-body",
        later="comment", chrome="[data-testid='issue-body-header'], h2.sr-only, form, .email-hidden-toggle, .reaction-summary",
        title="[data-testid='issue-title'], .js-issue-title, .gh-header-title",
    ),
    Engine(
        "Hacker News", ("comtr", "hnuser", "fatitem"), ".toptext, .fatitem .commtext, .comtr .commtext",
        post=".fatitem", opener=".toptext", later="comment", score=".score", chrome=".reply, .reply + *", title=".titleline a, .title a",
    ),
    Engine(
        "Reddit (old)", ("usertext-body",), ".thing .usertext-body .md", post=".thing",
        opener=".thing.link .usertext-body .md", later="comment", score=".score.unvoted, .score", title="a.title",
    ),
    Engine(
        "Reddit", ("slot=text-body", "slot=comment"), "shreddit-post [slot='text-body'], shreddit-comment [slot='comment']",
        post="shreddit-post, shreddit-comment", opener="shreddit-post [slot='text-body']", later="comment",
        score="@score", chrome="button, [slot='read-more-button']", title="h1[slot='title'], shreddit-title, h1",
    ),
    Engine(
        "Reddit (2018)", ("data-test-id=post-content", "data-testid=comment"),
        "[data-test-id='post-content'] [data-click-id='text'], [data-testid='comment']",
        opener="[data-test-id='post-content'] [data-click-id='text']", later="comment",
    ),
    Engine(
        "phpBB", ("phpbb", "section-viewtopic", "postbody"), "div.postbody .content, td .postbody, span.postbody",
        chrome=".signature, .notice, .attachbox, dl.thanks, dl.hidden", title="h2.topic-title, .topic-title, a.titles, .maintitle",
    ),
    Engine(
        "Discuz", ("postmessage_", "t_msgfont", "t_fsz"), "[id^='postmessage_'], td.t_f, div.t_msgfont, .display .message",
        comments=".pstl .psti", chrome=".pstatus, .attach_nopermission, .jammer, i.pstatus, .locked, .a_pr, .aimg_tip, .tip",
        title="#thread_subject, h1.ts, .threadtitle h1",
    ),
    Engine(
        "vBulletin", ("post_message_", "postcontent", "js-post__content-text"),
        "[id^='post_message_'], .postcontent, .js-post__content-text", chrome=".after_content, .signature, .bbcode_postedby, .smallfont",
        title=".threadtitle, .js-main-title, td.navbar strong, h1",
    ),
    Engine(
        "XenForo", ("message-body", "messageText"),
        ".message-body .bbWrapper, .message .messageText, .message--post .message-content .bbWrapper",
        comments=".comment-body .bbWrapper", comment=".comment",
        chrome=".bbCodeBlock-sourceJump, .bbCodeBlock-expandLink, .bbCodeBlock-shrinkLink, .messageTextEndMarker, .attribution a, .js-selectToQuoteEnd",
        title="h1.p-title-value, .titleBar h1",
    ),
    Engine(
        "Invision", ("cPost_contentWrap", "ipsComment", "commentContent"),
        "[data-role='commentContent'], .cPost_contentWrap .ipsType_richText, .post.entry-content", post="article, .ipsComment",
        score=".ipsReact_reactCount", repeats="[data-role='recommendedComments'], [data-role='memberSignature']", chrome=".ipsQuote_citation + .ipsQuote_toggle, .ipsItemSignature, .ipsSpoiler_header",
        title="h1.ipsType_pageTitle, .ipsType_pageTitle",
    ),
    Engine("MyBB", ("scaleimages", "pid_"), ".post_body", chrome=".post_edit, .signature", title=".thead strong"),
    Engine("SMF", ("msg_",), ".post .inner, .inner[id^='msg_'], div.post[id^='msg_']", chrome=".signature, .modified"),
    Engine("NodeBB", ("posts",), "[component='post/content'], [component='post'] .content, ul.posts .content",
           post="[component='post'], li", score="[component='post/vote-count']", repeats=".deleted", title="[component='topic/title'], [component='post/header'] span"),
    Engine("Flarum", ("PostStream",), ".PostStream .Post-body", post="article.CommentPost", accepted=".Post--bestAnswer", repeats=".item-bestAnswerPost", chrome=".Post-mentionedBy, .PostMention-preview", title=".DiscussionHero-title, h1"),
    Engine("Flarum (without scripts)", ("flarum-content",), "#flarum-content .Post-body", title="#flarum-content h1"),
    Engine("bbPress", ("bbp-reply-content", "bbp-topic-content"), ".bbp-reply-content, .bbp-topic-content",
           chrome=".bbp-reply-revision-log, .bbp-topic-revision-log, .bbp-signature, .bbp-reply-header, .bbp-meta", title="h1.entry-title, h1, .bbp-topic-title"),
    Engine("wpForo", ("wpforo-post-content",), ".wpforo-post-content", post=".post-wrap", comments=".wpforo-comment-text", score=".wpfvote-num, .votes",
           chrome=".wpforo-post-signature, .wpforo-post-content-bottom, .wpf-post-button-actions, .wpforo-action-buttons-wrap, .wpf-buttons, .bottom, .wpforo-post-signature-wrap",
           title="#wpforo-title, .wpforo-topic-title"),
    Engine("Asgaros", ("post-quote-container", "post-message"), ".post-element .post-message", chrome=".post-footer, .forum-post-header, .signature, .uploaded-files-title", title=".main-title-topic, .main-title"),
    Engine("Kunena", ("kmsg",), ".kmsg", chrome=".ksig", title=".kunena-topic-item h1, h1"),
    Engine("FlaskBB", ("topic-body",), ".topic-body .post-content", chrome=".post-footer, .post-signature", title=".topic-head, .card-header"),
    Engine("Simple:Press", ("spPostContent",), "[id^='spPostIndexContent'], .spPostContent", title=".spTopicViewName, .spHeaderName"),
    Engine("Talkyard", ("dw-p-bd",), ".dw-p-bd-blk", chrome=".dw-p-ttl, .esP_By", title=".dw-p-ttl h1, h1"),
    Engine("UBB.threads", ("post_inner",), ".post-content [id^='body'], .post_inner [id^='body']", title=".topic-subject, h1"),
    Engine("Vanilla", ("userContent", "MessageList"), ".Message.userContent, .Item-Body .userContent, .MessageList .Message", title=".PageTitle h1, h1"),
    Engine("Khoros", ("lia-message-body",), ".lia-message-body-content", post=".lia-message-view, .lia-panel-message", score=".MessageKudosCount",
           accepted=".lia-accepted-solution, .lia-message-view-accepted-solution", chrome=".lia-message-signature, .lia-rating-metoo"),
    Engine("Question2Answer", ("qa-q-view",), ".qa-q-view-content, .qa-a-item-content", post=".qa-q-view, .qa-a-list-item", comments=".qa-c-item-content",
           score=".qa-netvote-count-data", accepted=".qa-a-list-item-selected, .qa-a-selected", title=".qa-main-heading h1, h1"),
    Engine("DWQA", ("dwqa-",), ".dwqa-question-content, .dwqa-answer-content", post=".dwqa-question-item, .dwqa-answer-item", comments=".dwqa-comment-content, .dwqa-comment-text",
           score=".dwqa-vote-count", accepted=".dwqa-best-answer", chrome=".dwqa-question-footer, .dwqa-answer-footer"),
    Engine("AnsPress", ("anspress", "ap-q-content", "ap-answer"), ".ap-q-content, .ap-answer-content, .ap-a-content", post="[ap='question'], [ap='answer'], .answer", comments=".comment-content", score=".ap-vote .net-vote-count, .net-vote-count",
           accepted=".best-answer"),
    Engine("Answer", ("answer-item", "questionDetailPage"), ".questionDetailPage article, #question article, .answer-item article",
           comments=".comment-item .fmt", accepted=".accepted-answer"),
    Engine("CodeProject", ("answer-row", "container-question"), ".question .container-content > .container-question, .answer-row .text",
           comments=".comment-item .comment-content", chrome=".signature, .comment-meta", title=".question .header h2, .header"),
    Engine("Zhihu", ("QuestionAnswer", "RichContent-inner"), ".QuestionRichText .RichText, .RichContent-inner .RichText, .RichContent-inner", opener=".QuestionRichText .RichText",
           post=".AnswerItem, .ContentItem", score=".VoteButton--up", comments=".CommentContent", title="h1.QuestionHeader-title"),
    Engine("Baidu Zhidao", ("qb-content", "wgt-best"), ".q-content, .best-text, .answer-text", opener=".q-content", chrome=".wgt-replyer, .evaluate, .loading, .wgt-best-mask, .best-mask, .answer-mask, .wgt-best-showbtn",
           title=".ask-title, .wgt-ask h1, h1"),
    Engine("Baidu Tieba", ("d_post_content",), ".d_post_content", comments=".lzl_content_main", title=".core_title_txt"),
    Engine("LiveJournal", ("j-c-text", "j-e-text", "b-singlepost-body"), ".j-e-text, .aentry-post__text, .b-singlepost-body, .j-c-text", later="comment", chrome=".ljedittime, .j-c-edited, .ljtags, .lj-like"),
    Engine("Homeland", ("topic-detail",), ".topic-detail .markdown, .reply .markdown, .replies .markdown", title=".topic-detail h1, .topic-title"),
    Engine("V2EX", ("reply_content", "topic_content"), ".topic_content, .reply_content", title=".header h1, h1"),
    Engine("Lobsters", ("story_text",), ".story_text, .comment_text", opener=".story_text", later="comment", post=".story, .comment", score=".score, .upvoter"),
    Engine("Misago", ("misago-",), ".post-body article, .post-body .misago-markup, .post .misago-markup"),
    Engine("X", ("tweetText",), "article [data-testid='tweetText']", later="comment"),
    Engine("Imgur", ("GalleryComment",), ".Gallery-Content--descr, .GalleryComment-body", opener=".Gallery-Content--descr", later="comment", title=".Gallery-Title"),
    Engine("GitLab", ("note-text", "issuable-discussion"), ".detail-page-description .md, .note-text.md, .note-text", later="comment", title="h1.title"),
)  # fmt: skip
"""In the order of trying; the first that finds a thread's posts is believed."""
