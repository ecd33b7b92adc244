"""An MCP server that has what the scenarios of npm's @modelcontextprotocol/conformance call, by the names they use."""

from typing import Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    AudioContent,
    Completion,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="

ABOUT = "for a scenario"

text = TextContent(type="text", text="hello")
image = ImageContent(type="image", data=PIXEL, mime_type="image/png")


def embedded(uri: str, kind: str = "text/plain") -> EmbeddedResource:
    content = TextResourceContents(uri=uri, mime_type=kind, text="{}")
    return EmbeddedResource(type="resource", resource=content)


class Answer(BaseModel):
    response: str = Field(description="an answer")


class Person(BaseModel):
    name: str = Field(default="John Doe", description="a name")
    age: int = Field(default=30, description="an age")
    score: float = Field(default=95.5, description="a score")
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = Field(default=True, description="whether it is true")


def make_server() -> MCPServer:
    server = MCPServer("conforming", version="1")
    tools(server)
    interactive_tools(server)
    resources_and_prompts(server)
    return server


def tools(server: MCPServer) -> None:
    @server.tool(description=ABOUT)
    def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool(description=ABOUT)
    def test_image_content() -> list[ImageContent]:
        return [image]

    @server.tool(description=ABOUT)
    def test_audio_content() -> list[AudioContent]:
        return [AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")]

    @server.tool(description=ABOUT)
    def test_embedded_resource() -> list[EmbeddedResource]:
        return [embedded("test://embedded-resource")]

    @server.tool(description=ABOUT)
    def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        return [text, image, embedded("test://mixed-content-resource", "application/json")]

    @server.tool(description=ABOUT)
    async def test_tool_with_progress(ctx: Context[Any, Any]) -> str:
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
        return "done"

    @server.tool(description=ABOUT)
    def test_error_handling() -> str:
        raise RuntimeError("This tool intentionally returns an error for testing")


def interactive_tools(server: MCPServer) -> None:
    @server.tool(description=ABOUT)
    async def test_tool_with_logging(ctx: Context[Any, Any]) -> str:
        for step in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(step)
        return "done"

    @server.tool(description=ABOUT)
    async def test_sampling(prompt: str, ctx: Context[Any, Any]) -> str:
        question = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        answer = await ctx.session.create_message([question], max_tokens=100, related_request_id=ctx.request_id)
        return f"LLM response: {answer.content}"

    @server.tool(description=ABOUT)
    async def test_elicitation(message: str, ctx: Context[Any, Any]) -> str:
        return f"User response: {await ctx.elicit(message, Answer)}"

    @server.tool(description=ABOUT)
    async def test_elicitation_sep1034_defaults(ctx: Context[Any, Any]) -> str:
        return f"Elicitation completed: {await ctx.elicit('Who is it?', Person)}"

    @server.tool(description=ABOUT)
    async def test_input_required_result_elicitation(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        answers = ctx.input_responses or {}
        if "user_name" in answers:
            return f"Hello, {answers['user_name']}!"
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        asked = ElicitRequest(params=ElicitRequestFormParams(message="What is your name?", requested_schema=schema))
        return InputRequiredResult(input_requests={"user_name": asked})


def resources_and_prompts(server: MCPServer) -> None:
    @server.resource("test://static-text")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary")
    def static_binary() -> bytes:
        return Image(data=PIXEL.encode()).data or b""

    @server.resource("test://template/{id}/data")
    def template(id: str) -> str:
        return f'{{"id": "{id}"}}'

    @server.prompt(description=ABOUT)
    def test_simple_prompt() -> list[UserMessage]:
        return [UserMessage(content=text)]

    @server.prompt(description=ABOUT)
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        return [UserMessage(content=TextContent(type="text", text=f"{arg1} {arg2}"))]

    @server.prompt(description=ABOUT)
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        return [UserMessage(content=embedded(resourceUri))]

    @server.prompt(description=ABOUT)
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(content=image)]

    async def complete(*_: Any) -> Completion:
        return Completion(values=["hello"], total=1, has_more=False)

    untyped: Any = server
    untyped.completion()(complete)
